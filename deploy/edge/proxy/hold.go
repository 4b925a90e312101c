package proxy

import "time"

// hold returns those who answer on the route of an attempt at this moment, and holds
// them until the attempt releases them: a replica that is chosen of them counts as one
// that has a request before anybody is told that they do not answer any more.
func (p *Proxy) hold(a *attempt) *pool {
	for {
		t := p.table.Load()
		e, _ := t.find(a.host, a.path)
		if e == nil || e.owner != a.route.owner {
			return &pool{} // the route is gone
		}
		e.pool.holds.Add(1)
		if p.table.Load() == t {
			a.held = e.pool
			return e.pool
		}
		e.pool.holds.Add(-1)
	}
}

// settle returns when nobody chooses of a table any more that is not in force.
func (t *table) settle() {
	const again = 20 * time.Microsecond
	for _, matches := range t.hosts {
		for _, m := range matches {
			for m.entry.pool.holds.Load() > 0 {
				time.Sleep(again)
			}
		}
	}
}
