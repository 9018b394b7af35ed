"""HTTP: sans-io sessions, the Exchange between them and the handlers, the reverse proxy."""
