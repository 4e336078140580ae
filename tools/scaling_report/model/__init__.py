"""The performance model: what a step of synchronous training costs on a cluster that was not measured."""
