"""One supervisor per Endophyte: from desired state and the pair's record to what runs on this host."""
