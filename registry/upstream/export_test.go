package upstream

// At is where the services of providers are in a test.
type At struct{ AWS, AzureLogin, AzureIdentity string }

// NewAt is New with the services of providers elsewhere.
func NewAt(o Options, at At) (*Upstream, error) {
	return newAt(o, endpoints{aws: at.AWS, azureLogin: at.AzureLogin, azureIdentity: at.AzureIdentity})
}
