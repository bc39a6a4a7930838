"""Many runs that belong together: sweeps over settings, families of sizes."""
