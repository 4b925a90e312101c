package hub

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/berth-registry/berth/rollout"
)

// Wait answers a request as soon as there is something new about a tag, for who knows a
// version of it: 200 with the new version; 204 when the time is over; 503 if too many wait
// already, or when the server stops. What must be answered first, who may ask at all for
// one, is the caller's, for who asks as account.
func (h *Hub) Wait(w http.ResponseWriter, r *http.Request, account string, ref rollout.Ref, version string, timeout time.Duration) error {
	seen, err := h.source.See(r.Context(), []rollout.Ref{ref})
	if err != nil {
		return err
	}
	if seen[0].Differs(version) {
		respond(w, verdict{version: seen[0].Version()})
		return nil
	}
	who := &waiter{account: account, version: version, until: time.Now().Add(min(timeout, MaxWait))}
	if r.ProtoMajor == 1 && h.takeOver(w, r, ref, who) {
		return nil
	}
	who.woken = make(chan verdict, 1)
	if refused := h.add(ref, who); refused != "" {
		refuse(w, refused)
		return nil
	}
	select {
	case v := <-who.woken:
		respond(w, v)
	case <-r.Context().Done():
		if !h.drop(ref, who) {
			<-who.woken // nobody waits for it
		}
	}
	return nil
}

// takeOver has the connection of a request wait, if it can be taken over; else the handler
// goes on.
func (h *Hub) takeOver(w http.ResponseWriter, r *http.Request, ref rollout.Ref, who *waiter) bool {
	if r.ContentLength != 0 || r.Close && r.ProtoMinor == 0 {
		return false
	}
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false // within a process, say
	}
	who.conn = newConn(c)
	who.turn = turnOf(who)
	if buffered.Reader.Buffered() > 0 { // it has more to say: it is to say it on another connection
		who.conn.answer(verdict{}.answer())
		return true
	}
	if refused := h.add(ref, who); refused != "" {
		who.conn.answer(http.StatusServiceUnavailable, refusal(refused))
	}
	return true
}

// turnOf spreads who is looked at over the ticks.
func turnOf(w *waiter) uint64 { return uint64(w.until.UnixNano()/int64(time.Microsecond)) % goneTicks }

func respond(w http.ResponseWriter, v verdict) {
	if v.stopped {
		refuse(w, "the server stops")
		return
	}
	status, body := v.answer()
	if body != "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // a client that has gone learns nothing anyway
}

func refuse(w http.ResponseWriter, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write([]byte(refusal(why)))
}

// refusal is the body of an answer that is no other.
func refusal(why string) string {
	data, _ := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": "UNAVAILABLE", "message": why}}}) // it is text
	return string(data) + "\n"
}
