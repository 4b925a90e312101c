package images

// Usage returns the bytes that the layers of all images take, each counted once,
// and of each image, by its ID, how many of its bytes are in layers that another
// image has, too.
func (s *Store) Usage() (layers int64, shared map[string]int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	users := map[string]int{}
	for _, e := range s.images {
		if !e.visible() {
			continue
		}
		for key := range distinct(e.rec.Layers) {
			if users[key]++; users[key] == 1 {
				layers += s.layers[key].Size
			}
		}
	}
	shared = make(map[string]int64, len(s.images))
	for id, e := range s.images {
		if !e.visible() {
			continue
		}
		shared[id] = 0
		for _, key := range e.rec.Layers {
			if users[key] > 1 {
				shared[id] += s.layers[key].Size
			}
		}
	}
	return layers, shared
}

func distinct(keys []string) map[string]struct{} {
	set := make(map[string]struct{}, len(keys))
	for _, key := range keys {
		set[key] = struct{}{}
	}
	return set
}
