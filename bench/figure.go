package main

import (
	"fmt"
	"slices"
)

// figure is one thing that was measured, of several servers or of one server in
// several states.
type figure struct {
	Work     string    `json:"work"`
	Name     string    `json:"name"`
	Unit     string    `json:"unit"`
	Series   []series  `json:"series"`
	Verdicts []verdict `json:"verdicts"`
	Growth   bool      `json:"growth,omitempty"` // its series are sizes of the registry, shown in columns
	Date     string    `json:"date,omitempty"`   // of its run, if that is not the report's
}

// series are the values of one server or state, one of each run.
type series struct {
	Of     string    `json:"of"`
	Values []float64 `json:"values"`
	summary
}

// summary is what is shown of several values.
type summary struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// verdict is a ratio of two series, or with To empty the values of one, and what
// was wanted of it.
type verdict struct {
	Of   string `json:"of"`
	To   string `json:"to,omitempty"`
	Goal string `json:"goal,omitempty"`
	Met  *bool  `json:"met,omitempty"` // nil if there is no goal
	summary
}

// bound is a goal: the median must not be below, or not above, a limit. The zero
// bound is no goal.
type bound struct {
	sign  string
	limit float64
}

func atLeast(limit float64) bound { return bound{"≥", limit} }
func atMost(limit float64) bound  { return bound{"≤", limit} }

// String is empty for no goal.
func (b bound) String() string {
	if b.sign == "" {
		return ""
	}
	return fmt.Sprintf("%s %g", b.sign, b.limit)
}

func (b bound) met(x float64) *bool {
	var ok bool
	switch b.sign {
	case "":
		return nil
	case "≥":
		ok = x >= b.limit
	default:
		ok = x <= b.limit
	}
	return &ok
}

// add puts a value of one more run into the series of.
func (f *figure) add(of string, value float64) {
	for i := range f.Series {
		if s := &f.Series[i]; s.Of == of {
			s.Values = append(s.Values, value)
			s.summary = summarize(s.Values)
			return
		}
	}
	f.Series = append(f.Series, series{of, []float64{value}, summarize([]float64{value})})
}

// of returns a series; it is empty if nothing was added to it.
func (f *figure) of(name string) series {
	for _, s := range f.Series {
		if s.Of == name {
			return s
		}
	}
	return series{Of: name}
}

// ratio judges the ratio of two series, run by run: what disturbs the machine
// for longer than a turn then disturbs both.
func (f *figure) ratio(of, to string, goal bound) {
	a, b := f.of(of).Values, f.of(to).Values
	var ratios []float64
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, a[i]/b[i])
	}
	f.judge(of, to, goal, ratios)
}

// value judges a series by itself.
func (f *figure) value(of string, goal bound) { f.judge(of, "", goal, f.of(of).Values) }

func (f *figure) judge(of, to string, goal bound, values []float64) {
	s := summarize(values)
	text := goal.String()
	if text != "" && to == "" {
		text += " " + f.Unit
	}
	f.Verdicts = append(f.Verdicts, verdict{of, to, text, goal.met(s.Median), s})
}

func summarize(values []float64) summary {
	if len(values) == 0 {
		return summary{}
	}
	v := slices.Sorted(slices.Values(values))
	return summary{(v[(len(v)-1)/2] + v[len(v)/2]) / 2, v[0], v[len(v)-1]}
}

// quantile returns the value that the share q of the values does not exceed. It
// sorts them.
func quantile[T ~int64 | ~float64](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[int(q*float64(len(values)-1))]
}
