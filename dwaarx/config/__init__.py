"""The Dwaarfile: text in, a frozen model out; nothing here touches the network."""
