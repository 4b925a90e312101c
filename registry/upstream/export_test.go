package upstream

import "time"

// At is where the services of providers are in a test.
type At struct{ AWS, AzureLogin, AzureIdentity string }

// NewAt is New with the services of providers elsewhere.
func NewAt(o Options, at At) (*Upstream, error) {
	return newAt(o, endpoints{aws: at.AWS, azureLogin: at.AzureLogin, azureIdentity: at.AzureIdentity})
}

// Age makes the credentials that an upstream has fetched older.
func Age(u *Upstream, by time.Duration) {
	s := u.source.(*fetched)
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.at = s.at.Add(-by)
}
