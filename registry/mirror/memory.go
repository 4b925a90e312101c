package mirror

import (
	"container/list"
	"sync"
	"time"
)

// memory remembers some things for a time; of too many, those that were put first are
// forgotten.
type memory[K comparable, V any] struct {
	mu    sync.Mutex
	most  int
	items map[K]*list.Element
	order *list.List // of entries, the oldest first
}

type entry[K comparable, V any] struct {
	key   K
	value V
	until time.Time
}

func newMemory[K comparable, V any](most int) *memory[K, V] {
	return &memory[K, V]{most: most, items: map[K]*list.Element{}, order: list.New()}
}

func (m *memory[K, V]) put(key K, value V, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(key)
	for len(m.items) >= m.most {
		m.remove(m.order.Front().Value.(entry[K, V]).key)
	}
	m.items[key] = m.order.PushBack(entry[K, V]{key, value, until})
}

func (m *memory[K, V]) get(key K, now time.Time) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.items[key]
	if !ok {
		return value, false
	}
	found := e.Value.(entry[K, V])
	if !now.Before(found.until) {
		m.remove(key)
		return value, false
	}
	return found.value, true
}

func (m *memory[K, V]) drop(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(key)
}

func (m *memory[K, V]) remove(key K) {
	if e, ok := m.items[key]; ok {
		m.order.Remove(e)
		delete(m.items, key)
	}
}
