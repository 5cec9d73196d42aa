"""What tests of the chart and of the launcher `kubernetes` share."""
