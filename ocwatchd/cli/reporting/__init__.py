"""The figures of `ocwatch report` as a page, as JSON and as Prometheus text: three renderings of the same values."""
