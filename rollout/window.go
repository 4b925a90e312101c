package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // a container image has no files of zones
)

// Window is a time of the day, on some days of the week, in a zone.
type Window struct {
	Days     []time.Weekday // on which it opens
	From, To int            // minutes since midnight; To is the next day's unless it is later
	Zone     *time.Location
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func parseWindow(v json.RawMessage) (*Window, error) {
	w := &Window{To: 24 * 60, Zone: time.UTC}
	clock := func(key string, to *int) func(json.RawMessage) error {
		return func(v json.RawMessage) (err error) { *to, err = parseClock(v, key); return err }
	}
	if err := object(v, "window", map[string]func(json.RawMessage) error{
		"days": func(v json.RawMessage) (err error) { w.Days, err = parseDays(v); return err },
		"from": clock("window.from", &w.From),
		"to":   clock("window.to", &w.To),
		"zone": func(v json.RawMessage) (err error) { w.Zone, err = parseZone(v); return err },
	}, nil); err != nil {
		return nil, err
	}
	switch w.From {
	case w.To:
		return nil, fmt.Errorf("window.to: want another time than window.from: for all day, leave both out")
	case 24 * 60:
		return nil, fmt.Errorf("window.from: want a time of the day before 24:00")
	}
	if w.Days == nil {
		w.Days = []time.Weekday{0, 1, 2, 3, 4, 5, 6}
	}
	return w, nil
}

func parseDays(v json.RawMessage) (days []time.Weekday, err error) {
	var names []string
	if err := json.Unmarshal(v, &names); err != nil || len(names) == 0 || len(names) > 7 {
		return nil, fmt.Errorf(`window.days: want a list such as ["mon", "tue"], not %s`, short(v))
	}
	for _, name := range names {
		i := slices.Index(weekdays, name)
		if i < 0 || slices.Contains(days, time.Weekday(i)) {
			return nil, fmt.Errorf("window.days: want each of %s at most once, not %s", strings.Join(weekdays, ", "), short([]byte(name)))
		}
		days = append(days, time.Weekday(i))
	}
	return days, nil
}

func parseClock(v json.RawMessage, key string) (int, error) {
	var s string
	err := json.Unmarshal(v, &s)
	if err == nil && s == "24:00" {
		return 24 * 60, nil
	}
	t, perr := time.Parse("15:04", s)
	if err != nil || perr != nil || len(s) != len("15:04") {
		return 0, fmt.Errorf(`%s: want a time such as "02:00", not %s`, key, short(v))
	}
	return t.Hour()*60 + t.Minute(), nil
}

func parseZone(v json.RawMessage) (*time.Location, error) {
	var s string
	if err := json.Unmarshal(v, &s); err == nil && s != "" && s != "Local" {
		if zone, err := time.LoadLocation(s); err == nil {
			return zone, nil
		}
	}
	return nil, fmt.Errorf(`window.zone: want the name of a time zone, such as "Europe/Berlin", not %s`, short(v))
}

// At says whether the window is open, and until when that is so.
func (w *Window) At(now time.Time) (open bool, until time.Time) {
	local := now.In(w.Zone)
	// One that opened yesterday may be open still; the next may open in a week, and an
	// hour that a clock leaves out may put it off further.
	for day := -1; day <= 15; day++ {
		at := func(minutes int) time.Time {
			return time.Date(local.Year(), local.Month(), local.Day()+day, 0, minutes, 0, 0, w.Zone)
		}
		from, to := at(w.From), at(w.To)
		if w.To <= w.From {
			to = at(w.To + 24*60)
		}
		if !slices.Contains(w.Days, at(12*60).Weekday()) || !to.After(now) {
			continue
		}
		if from.After(now) {
			return false, from
		}
		return true, to
	}
	return false, now.Add(24 * time.Hour)
}
