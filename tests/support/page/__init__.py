"""What tests of the web page share: a browser that looks for mistakes, and axe-core.

axe.min.js is axe-core 4.14.1 as npm has it (MPL-2.0, axe.LICENSE); only tests load it.
"""
