package audit

import "encoding/json"

// ContentType is that of what webhooks are sent: an event in the structured mode
// of CloudEvents (HTTP Protocol Binding 1.0.2, section 3.2).
const ContentType = "application/cloudevents+json"

// cloudEvent is an event as webhooks are told of it (CloudEvents 1.0.2, section
// "Context Attributes"; JSON Event Format 1.0.2, section 3). The specification's
// own library brings along much more than these fields.
type cloudEvent struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Type        string    `json:"type"`
	Subject     string    `json:"subject"`
	Time        string    `json:"time"`
	DataType    string    `json:"datacontenttype"`
	Data        eventData `json:"data"`
}

// eventData is what is told. Its names are those of the log.
type eventData struct {
	Repository string      `json:"repository"`
	Tag        string      `json:"tag,omitempty"`
	Tags       []string    `json:"tags,omitempty"`
	Digest     string      `json:"digest,omitempty"`
	Was        string      `json:"was,omitempty"`
	MediaType  string      `json:"mediaType,omitempty"`
	Size       int64       `json:"size,omitempty"`
	Actor      actorFields `json:"actor"`
	Client     string      `json:"client,omitempty"`
	Request    string      `json:"request,omitempty"`
}

type actorFields struct {
	Account string `json:"account,omitempty"`
	Source  string `json:"source,omitempty"`
	Key     string `json:"key,omitempty"`
}

// typePrefix makes a Kind a type of CloudEvents: reversed, the name of who defines it.
const typePrefix = "dev.berth."

// cloud encodes the event under an id that no other event of the source has.
func (e *Event) cloud(id, source string) ([]byte, error) {
	l := e.line(maxValue)
	return json.Marshal(cloudEvent{
		SpecVersion: "1.0", ID: id, Source: source, Type: typePrefix + l.Event, Subject: l.about(),
		Time: l.Time, DataType: "application/json",
		Data: eventData{
			Repository: l.Repository, Tag: l.Tag, Tags: l.Tags, Digest: l.Digest, Was: l.Was,
			MediaType: l.MediaType, Size: l.Size,
			Actor:  actorFields{Account: l.Account, Source: l.Source, Key: l.Key},
			Client: l.Client, Request: l.Request,
		},
	})
}

// about names what the event is about as a user would: by tag, or else by digest.
func (l *line) about() string {
	switch {
	case l.Tag != "":
		return l.Repository + ":" + l.Tag
	case l.Digest != "":
		return l.Repository + "@" + l.Digest
	}
	return l.Repository
}
