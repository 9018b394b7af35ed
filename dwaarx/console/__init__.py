"""The console: functions that steer the running service, and the manhole that offers them."""
