// The definitions of ServiceMonitor and PrometheusRule, which stand in this module as files. Nothing of it is built.
module leasehold.dev/tools/prometheus-operator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
