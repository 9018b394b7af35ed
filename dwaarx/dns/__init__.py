"""DNS: wire format, DoT and DoH sessions, and the forwarder behind both."""
