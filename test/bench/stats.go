package main

import (
	"math"
	"slices"
)

// spread is the median of some values, with the quartiles around it.
type spread struct {
	q1, median, q3 float64
	n              int
}

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	return spread{q1: quantile(sorted, 0.25), median: quantile(sorted, 0.5), q3: quantile(sorted, 0.75), n: len(sorted)}
}

// quantile is the value below which a share of sorted values lies, between its
// two neighbours in proportion.
func quantile(sorted []float64, share float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := share * float64(len(sorted)-1)
	below := int(at)
	if below+1 == len(sorted) {
		return sorted[below]
	}
	return sorted[below] + (at-float64(below))*(sorted[below+1]-sorted[below])
}

// paired applies f to the values of the same round of two subjects: what the
// machine did to both in that round does not come between them.
func paired(a, b []float64, f func(a, b float64) float64) spread {
	values := make([]float64, min(len(a), len(b)))
	for i := range values {
		values[i] = f(a[i], b[i])
	}
	return spreadOf(values)
}

func ratio(a, b float64) float64      { return a / b }
func difference(a, b float64) float64 { return a - b }

// as makes a figure of the spread.
func (s spread) as(scenario, subject, measure string) figure {
	return figure{Scenario: scenario, Subject: subject, Measure: measure, Value: s.median, Q1: s.q1, Q3: s.q3, Slices: s.n}
}
