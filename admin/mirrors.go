package admin

import "time"

type (
	// Mirror is how a mirror of another registry is. What is counted is what the server
	// that answers has seen since it started.
	Mirror struct {
		Name     string `json:"name"`
		Prefix   string `json:"prefix"`   // of its repositories
		Upstream string `json:"upstream"` // URL
		// Available says whether the upstream may be asked.
		Available bool             `json:"available"`
		Until     *time.Time       `json:"until,omitempty"`  // when it may be asked again
		Reason    string           `json:"reason,omitempty"` // why it may not be asked
		RateLimit *MirrorRateLimit `json:"ratelimit,omitempty"`
		Requests  MirrorRequests   `json:"requests"`
		Cache     MirrorCache      `json:"cache"`
	}
	// MirrorRateLimit is what an upstream has said last of its limit.
	MirrorRateLimit struct {
		Limit     int64     `json:"limit"`     // pulls in a window
		Remaining int64     `json:"remaining"` // of them
		Window    int64     `json:"window"`    // seconds; 0 if it did not say
		At        time.Time `json:"at"`        // when it said so
	}
	// MirrorRequests count requests to an upstream by what came of them.
	MirrorRequests struct {
		OK       int64 `json:"ok"`
		NotFound int64 `json:"not_found"`
		Refused  int64 `json:"refused"`  // credentials that are not taken or not enough
		Limited  int64 `json:"limited"`  // too many requests
		Failed   int64 `json:"failed"`   // no answer, or a fault of the upstream's
		Rejected int64 `json:"rejected"` // not sent, as the upstream was left alone
	}
	// MirrorCache is what is kept of an upstream, and what became of clients' requests.
	MirrorCache struct {
		Bytes     int64 `json:"bytes"` // each digest once
		Manifests int64 `json:"manifests"`
		Quota     int64 `json:"quota"`    // bytes; 0 for any number
		Keep      int64 `json:"keep"`     // seconds after the last pull; 0 for ever
		Full      bool  `json:"full"`     // over the quota, as all that it holds is in use
		Hits      int64 `json:"hits"`     // answered from the cache
		Misses    int64 `json:"misses"`   // for which the upstream was asked
		Stale     int64 `json:"stale"`    // answered from the cache as the upstream could not be asked
		Failures  int64 `json:"failures"` // times that the upstream could not be asked, or gave something wrong
		Corrupt   int64 `json:"corrupt"`  // blobs that came with wrong bytes
		Filling   int64 `json:"filling"`  // blobs that come now
		Fetched   int64 `json:"fetched"`  // bytes that came from the upstream
	}
)
