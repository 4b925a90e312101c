package gate

import (
	"sync"
	"time"
)

// recent is a map that remembers what was used recently, and no more than max
// entries. It has two generations: what is used moves to the young one, and when
// that is full, or after a time, the old one is forgotten and the young one is the
// old one.
type recent[K comparable, V any] struct {
	max   int           // entries
	every time.Duration // after which the generations turn; 0 for only when full

	mu         sync.RWMutex
	young, old map[K]V
	turned     time.Time
}

func newRecent[K comparable, V any](most int, every time.Duration) *recent[K, V] {
	return &recent[K, V]{max: most, every: every, young: map[K]V{}, old: map[K]V{}}
}

func (m *recent[K, V]) get(k K, now time.Time) (V, bool) {
	m.mu.RLock()
	v, ok := m.young[k]
	if !ok {
		v, ok = m.old[k]
		if ok {
			m.mu.RUnlock()
			m.keep(k, now)
			return v, true
		}
	}
	m.mu.RUnlock()
	return v, ok
}

// keep moves an entry of the old generation, if it still is there, to the young
// one.
func (m *recent[K, V]) keep(k K, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.old[k]; ok {
		delete(m.old, k)
		m.putLocked(k, v, now)
	}
}

func (m *recent[K, V]) put(k K, v V, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.old, k)
	m.putLocked(k, v, now)
}

// getOrPut returns the entry of k, which fresh makes if there is none.
func (m *recent[K, V]) getOrPut(k K, now time.Time, fresh func() V) V {
	if v, ok := m.get(k, now); ok {
		return v
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, gen := range []map[K]V{m.young, m.old} {
		if v, ok := gen[k]; ok {
			return v
		}
	}
	v := fresh()
	m.putLocked(k, v, now)
	return v
}

func (m *recent[K, V]) putLocked(k K, v V, now time.Time) {
	_, there := m.young[k]
	if !there && len(m.young) >= m.max/2 || m.every > 0 && now.Sub(m.turned) > m.every {
		m.old, m.young, m.turned = m.young, map[K]V{}, now
	}
	m.young[k] = v
}

func (m *recent[K, V]) drop(k K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.young, k)
	delete(m.old, k)
}
