package main

import (
	_ "embed"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

// The drawing: bars that say what a request costs and of what that is made, and
// below them how it grows. It is text, so that a browser can draw it in light and
// in dark.
//
//go:embed plot.svg.tmpl
var plotText string

var plotTemplate = template.Must(template.New("plot").Funcs(template.FuncMap{"xml": template.HTMLEscapeString, "number": number}).Parse(plotText))

// Measures of the drawing.
const (
	plotWidth  = 880.0
	barLeft    = 210.0
	barRight   = 800.0
	barTop     = 112.0
	barStep    = 24.0
	barGap     = 9.0 // between what is not of one kind
	panelWidth = 232.0
	panelDepth = 150.0
	panelStep  = 288.0
	panelLeft  = 56.0
)

// drawing is what the template draws.
type drawing struct {
	Width, Height float64
	Subtitle      string
	Ticks         []tick
	AxisTop       float64
	AxisBottom    float64
	Bars          []bar
	PanelTop      float64
	Panels        []panel
	Legend        []series
}

// tick is a mark of an axis, at a place on the drawing.
type tick struct {
	At    float64
	Label string
}

// bar is one subject.
type bar struct {
	Name  string
	Y     float64
	Parts []part
	End   float64
	Total float64
}

// part is a piece of a bar.
type part struct{ Class, X, Width string }

// panel is one chart of growth.
type panel struct {
	Title, Below string
	X            float64
	Base         float64 // where the lower axis is
	XTicks       []tick
	YTicks       []tick
	Lines        []series
}

// series is one line of a panel.
type series struct {
	Name, Class, Path string
	Points            [][2]float64
	At                float64 // in the legend
}

// plot draws the report. What was not measured is not drawn.
func (r *report) plot(out io.Writer) error {
	m := r.Machine
	d := drawing{Width: plotWidth, Subtitle: fmt.Sprintf("%s, %d cores · %s · Caddy %s · %s", m.CPU, m.Cores, m.Go, m.Caddy, m.Date)}
	d.bars(r)
	d.AxisTop = barTop - 8
	d.AxisBottom = barTop
	if len(d.Bars) > 0 {
		d.AxisBottom = d.Bars[len(d.Bars)-1].Y + barStep
	}
	d.PanelTop = d.AxisBottom + 84
	base := d.PanelTop + 30 + panelDepth
	for _, p := range []panel{
		{Title: "Authentication, by token size", Below: "kB of the access token"},
		{Title: "Whole proxy, by sessions", Below: "sessions that take turns"},
		{Title: "Whole proxy, by connections", Below: "requests at a time"},
	} {
		table := []string{sizeTable, sessionTable, concurrencyTable}[len(d.Panels)]
		p.X, p.Base = panelLeft+panelStep*float64(len(d.Panels)), base
		p.draw(r, table)
		d.Panels = append(d.Panels, p)
	}
	for _, name := range []string{"bare", "cookie", "memory", "redis"} {
		d.Legend = append(d.Legend, series{Name: legend[name], Class: name, At: panelLeft + 190*float64(len(d.Legend))})
	}
	d.Height = base + 84
	return plotTemplate.Execute(out, d)
}

var legend = map[string]string{"bare": "bare, as many bytes", "cookie": "sessions in cookies", "memory": "in memory", "redis": "in Redis"}

// bars are bare Caddy, ours and the peers; the controls are parts of ours.
func (d *drawing) bars(r *report) {
	bare, ok := r.find(compareTable, "bare", cpuColumn)
	if !ok {
		return
	}
	type row struct {
		name        string
		bytes, auth float64
	}
	rows, most := []row{{name: "bare"}}, bare.Value
	for _, f := range r.Figures {
		if f.Scenario == compareTable && f.Measure == authColumn {
			bytes, _ := r.find(compareTable, f.Subject, bytesColumn)
			next := row{f.Subject, max(0, bytes.Value), max(0, f.Value)}
			rows, most = append(rows, next), max(most, bare.Value+next.bytes+next.auth)
		}
	}
	step := nice(most / 5)
	scale := (barRight - barLeft) / (math.Ceil(most/step) * step)
	for v := 0.0; v <= math.Ceil(most/step)*step; v += step {
		d.Ticks = append(d.Ticks, tick{barLeft + v*scale, number(v)})
	}
	y, group := barTop-barStep, "bare"
	for _, row := range rows {
		y += barStep
		if first := strings.Fields(row.name)[0]; first != group {
			y, group = y+barGap, first
		}
		b := bar{Name: row.name, Y: y, Total: bare.Value + row.bytes + row.auth, End: barLeft}
		for _, p := range []struct {
			class string
			value float64
		}{{"base", bare.Value}, {"bytes", row.bytes}, {"auth", row.auth}} {
			if p.value > 0 {
				b.Parts = append(b.Parts, part{p.class, place(b.End), place(p.value * scale)})
				b.End += p.value * scale
			}
		}
		d.Bars = append(d.Bars, b)
	}
}

// draw makes the lines of a table's figures that grow with something.
func (p *panel) draw(r *report, table string) {
	var at []float64
	most := 0.0
	for _, f := range r.Figures {
		if f.Scenario == table && f.At > 0 {
			at, most = append(at, f.At), max(most, f.Value)
		}
	}
	if len(at) == 0 {
		return
	}
	slices.Sort(at)
	at = slices.Compact(at)
	step := nice(max(most, 1) / 4)
	top := math.Ceil(max(most, 1)/step) * step
	y := func(v float64) float64 { return p.Base - max(0, v)/top*panelDepth }
	x := func(v float64) float64 { // what grows by factors has an axis of factors
		if at[len(at)-1] > 100 {
			return p.X + 10 + math.Log(v/at[0])/math.Log(at[len(at)-1]/at[0])*(panelWidth-24)
		}
		return p.X + 10 + (v-at[0])/(at[len(at)-1]-at[0])*(panelWidth-24)
	}
	for v := 0.0; v <= top; v += step {
		p.YTicks = append(p.YTicks, tick{y(v), plain(v)})
	}
	for _, v := range at {
		p.XTicks = append(p.XTicks, tick{x(v), plain(v)})
	}
	for _, f := range r.Figures {
		if f.Scenario != table || f.At == 0 {
			continue
		}
		i := slices.IndexFunc(p.Lines, func(l series) bool { return l.Name == f.Subject })
		if i < 0 {
			i = len(p.Lines)
			p.Lines = append(p.Lines, series{Name: f.Subject, Class: strings.Fields(f.Subject)[0], Path: "M"})
		}
		line := &p.Lines[i]
		line.Points = append(line.Points, [2]float64{x(f.At), y(f.Value)})
		line.Path += " " + place(x(f.At)) + " " + place(y(f.Value)) + " L"
	}
	for i := range p.Lines {
		p.Lines[i].Path = strings.TrimSuffix(p.Lines[i].Path, " L")
	}
}

// plain is a number on an axis.
func plain(v float64) string {
	if v == math.Trunc(v) {
		return number(v)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// place is a coordinate.
func place(v float64) string { return fmt.Sprintf("%.1f", v) }

// nice is the next of 1, 2, 5, 10, 20, 50, …
func nice(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, digit := range []float64{1, 2, 5} {
		if v <= digit*power {
			return digit * power
		}
	}
	return 10 * power
}
