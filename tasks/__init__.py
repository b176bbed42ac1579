"""How stages run under Prefect: keys, retries, artifacts, then one call into `dihal_core`."""
