package flows

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// failures is what the metrics count, by reason.
func (w *world) failures() map[string]float64 {
	w.t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "caddy_pkce_auth_failures_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			if labels["provider"] == strings.TrimPrefix(w.op.URL, "http://") {
				counts[labels["reason"]] = metric.GetCounter().GetValue()
			}
		}
	}
	return counts
}

// Unreachable, forged and misconfigured are told apart: in the log, in the
// metrics, which a reload does not set back, and on the page.
func TestUnreachableForgedAndMisconfiguredDiffer(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	for reason, tc := range map[string]struct {
		faults provider.Faults
		status int
		page   string
		hint   string
	}{
		"provider_unavailable": {
			provider.Faults{Answer: endpointAnswers{"token": provider.Status(503, "text/plain", "")}},
			http.StatusServiceUnavailable,
			"Login is not available right now", "check that Caddy can reach the issuer",
		},
		"invalid_answer": {
			provider.Faults{SignedIDToken: func(token string) string { return token[:len(token)-4] + "AAAA" }},
			http.StatusBadGateway,
			"could not be accepted", "sent what must not be used",
		},
		"misconfigured": {
			provider.Faults{Answer: endpointAnswers{"token": provider.Status(401, "application/json", `{"error":"invalid_client"}`)}},
			http.StatusBadGateway,
			"Login is not set up correctly", "compare issuer, client_id",
		},
	} {
		load("timeout 5s")
		w.op.Misbehave(tc.faults)
		a := w.browser().open(w.site + "/")
		if a.StatusCode != tc.status || !strings.Contains(a.body, tc.page) {
			t.Errorf("%s: got status %d and %.300s", reason, a.StatusCode, a.body)
		}
		w.logged("request failed", `"reason":"`+reason+`"`, tc.hint)
	}
	load("timeout 6s")
	for reason, want := range map[string]float64{"provider_unavailable": 1, "invalid_answer": 1, "misconfigured": 1} {
		if got := w.failures()[reason]; got != want {
			t.Errorf("%s: counted %v times, want %v", reason, got, want)
		}
	}
}
