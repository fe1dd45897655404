"""The output of `ocwatch report` as an HTML page, as JSON and as Prometheus text."""
