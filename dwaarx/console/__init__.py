"""The console: functions that steer the running service, and the manhole that offers them."""

# In the storage; here, since the client finds it without what the service imports.
SOCKET_NAME = "console.sock"
