package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mrand "math/rand/v2"
	"regexp"
	"strings"

	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

const nameChars = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

var validName = regexp.MustCompile("^" + nameChars + "+$")

// newID returns an identifier of 64 hexadecimal digits whose beginning is not a
// number: a short ID that is all digits could be taken for one.
func newID() string {
	for {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails: see crypto/rand
		id := hex.EncodeToString(b[:])
		if strings.ContainsAny(id[:12], "abcdef") {
			return id
		}
	}
}

// reserve gives a name to an ID, making one up if it is empty. Nobody else gets
// the name until it is released.
func (e *Engine) reserve(name, id string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		name = e.inventName(id)
	}
	if !validName.MatchString(name) {
		return "", runner.Errorf(runner.ErrInvalid, "Invalid container name (%s), only %s are allowed", name, nameChars)
	}
	if holder, taken := e.names[name]; taken {
		return "", runner.Errorf(runner.ErrConflict,
			"Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.",
			"/"+name, holder)
	}
	e.names[name] = id
	return name, nil
}

func (e *Engine) release(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.names, name)
}

// RenameContainer implements runner/api's Containers.
func (e *Engine) RenameContainer(ctx context.Context, ref, name string) error {
	c, unlock, err := e.findLocked(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	rec, _ := c.snapshot()
	name = strings.TrimPrefix(name, "/")
	switch name {
	case "":
		return runner.Errorf(runner.ErrInvalid, "Neither old nor new names may be empty")
	case rec.Name:
		return runner.Errorf(runner.ErrInvalid, "Renaming a container with the same name as its current name")
	}
	if _, err := e.reserve(name, c.id); err != nil {
		return err
	}
	renamed := *rec
	renamed.Name = name
	if err := e.replaceRecord(c, &renamed); err != nil {
		e.release(name)
		return err
	}
	e.release(rec.Name)
	if err := e.renameEndpoints(c, name); err != nil {
		return err
	}
	e.containerEvent(c, events.ActionRename, "oldName", "/"+rec.Name)
	return nil
}

// inventName makes up a name that is free; e.mu is held.
func (e *Engine) inventName(id string) string {
	for range 10 {
		name := qualities[mrand.IntN(len(qualities))] + "_" + vessels[mrand.IntN(len(vessels))] //nolint:gosec // a name is no secret
		if _, taken := e.names[name]; !taken {
			return name
		}
	}
	return fmt.Sprintf("vessel_%s", id[:12])
}

var (
	qualities = strings.Fields(`able agile amber bold brave breezy bright brisk calm clever cosy crisp
		daring deft eager early fair fast fearless fine fleet fond free fresh gentle glad golden good
		grand happy hardy honest jolly keen kind light lively loyal lucky mellow merry mild neat nimble
		noble plucky polite proud quick quiet ready regal rosy silver smart snug spry steady stout
		sturdy sunny sure swift tidy trim true trusty vivid warm wise witty zesty`)
	vessels = strings.Fields(`barge bark barque brig brigantine canoe caravel carrack catamaran clipper
		coaster cog collier corvette cruiser currach cutter dhow dinghy dory dredger drifter felucca
		ferry freighter frigate galleon galley gig gondola hoy hulk hydrofoil junk kayak keelboat ketch
		knarr launch lighter liner longship lugger outrigger packet pilot pinnace polacca praam prau
		punt raft sampan schooner scow shallop skiff sloop smack snow steamer tanker tartane tender
		trawler trimaran trireme tug umiak wherry whaler xebec yacht yawl`)
)
