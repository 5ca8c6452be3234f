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
	{compareTable, "what a request costs, side by side", compare},
	{latencyTable, "how long users wait at a fixed load", latency},
	{cookieTable, "what a login has the browser keep", cookies},
	{memoryTable, "what sessions keep in memory", memories},
	{sessionTable, "whether many sessions cost more", manySessions},
	{concurrencyTable, "whether many requests at once cost more", concurrency},
	{startTable, "how long a start takes", coldStarts},
	{loginTable, "what a login costs", manyLogins},
	{stormTable, "whether many who come at the same expiry ask the provider once each", storms},
	{floodTable, "whether requests of nobody leave anything behind", flooded},
}
