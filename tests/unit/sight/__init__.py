"""What people look at says what the code measures: dashboards, alerts and runbooks."""
