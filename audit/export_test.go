package audit

import "time"

// For tests of what a clock decides: they move it, and wake who waits.

func (o *Outbox) Wake() { o.wake() }

func Encode(e *Event) ([]byte, error) { return encode(e, "") }

const MaxLine = maxLine

var (
	Delay      = delay
	RetryAfter = retryAfter
)

// Refused is an answer that is none of 2xx.
func Refused(status int) error { return &refusal{status: status} }

// Sign signs as a webhook of that secret does.
func Sign(secret, id string, at time.Time, body []byte) (string, error) {
	h := new(hook)
	if err := h.setSecret(secret); err != nil {
		return "", err
	}
	return h.signer.Sign(id, at, body)
}
