package main

// scenario is one question that the bench answers. It starts the proxies it
// needs (bench.caddy), gets sessions (bench.sessions), measures, and adds what it
// found to the report (report.add).
type scenario struct {
	name  string // the table of the report, and what -only matches
	about string
	run   func(*bench) error
}

// scenarios stand in the order in which they are measured and reported.
var scenarios = []scenario{
	{"compare", "CPU per request, side by side", compare},
}
