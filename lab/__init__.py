"""Several hosts and ranks on one machine, for tests, benches and the scaling demo."""
