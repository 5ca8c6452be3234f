package caddyauth

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// failures counts what went wrong, by provider and reason: the closed list of
// errors.go, which is what the log says, too. It outlives configurations, so
// that a reload does not set it back.
var failures = prometheus.NewCounterVec(prometheus.CounterOpts{
	Namespace: "caddy",
	Subsystem: "pkce_auth",
	Name:      "failures_total",
	Help:      "Requests and refreshes that failed, by the provider they are about and the reason that the log gives.",
}, []string{"provider", "reason"})

// registerMetrics has Caddy show our metrics together with its own.
func registerMetrics(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(failures)
	if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); again {
		return nil
	}
	return err
}
