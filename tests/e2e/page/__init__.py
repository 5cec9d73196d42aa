"""The web page in a browser, on a live run: engines are simulated, all else is as it is."""
