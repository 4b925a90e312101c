package network

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// settle is how long the table is left alone after somebody changed it: a reload
// of a firewall is many changes.
const settle = 100 * time.Millisecond

// watch follows the kernel's notices of changes to nftables, and makes the table
// again when somebody else deleted it or something in it.
func (m *Manager) watch() error {
	sock, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	damaged, changed := make(chan struct{}, 1), make(chan struct{}, 1)
	m.wg.Go(func() {
		<-m.stopped.Done()
		sock.Close()
	})
	m.wg.Go(func() {
		for m.stopped.Err() == nil {
			msgs, _, err := sock.Receive()
			if errors.Is(err, unix.ENOBUFS) { // more at once than the socket holds
				notify(damaged)
				continue
			}
			if err != nil && m.stopped.Err() == nil {
				m.log.Error("nftables is no longer watched", "error", err)
				return
			}
			for _, msg := range msgs {
				switch m.rules.judge(msg.Header.Type, msg.Header.Pid, msg.Data) {
				case ofOurs:
					notify(damaged)
				case ofOthers:
					notify(changed)
				case harmless:
				}
			}
		}
	})
	m.wg.Go(func() { m.repair(damaged, changed) })
	return nil
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// repair makes the table again some time after each notice of damage.
func (m *Manager) repair(damaged, changed <-chan struct{}) {
	for {
		ours := false
		select {
		case <-m.stopped.Done():
			return
		case <-damaged:
			ours = true
		case <-changed:
		}
		select {
		case <-m.stopped.Done():
			return
		case <-time.After(settle):
		}
		select {
		case <-damaged: // by the same change
			ours = true
		default:
		}
		if ours {
			if err := m.rules.reconcile(); err != nil {
				m.log.Error("rules were deleted by somebody else, and cannot be made again", "error", err)
			} else {
				m.log.Warn("rules were deleted by somebody else, and have been made again")
			}
		}
		m.warnOfForwardPolicies()
	}
}

type judgement int

const (
	harmless judgement = iota
	ofOurs             // something in our table was deleted by somebody else
	ofOthers           // somebody else made a chain
)

// judge says what a notice of the kernel means.
func (r *rules) judge(kind uint16, pid uint32, data []byte) judgement {
	const sizeofNfgenmsg = 4
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || pid == r.pid || len(data) < sizeofNfgenmsg {
		return harmless
	}
	switch kind & 0xff {
	case unix.NFT_MSG_NEWCHAIN:
		return ofOthers
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
		attrs, err := nl.ParseRouteAttr(data[sizeofNfgenmsg:])
		for _, a := range attrs {
			// In each of these messages the table's name is the attribute 1.
			if a.Attr.Type == unix.NFTA_TABLE_NAME && string(bytes.TrimRight(a.Value, "\x00")) == r.name {
				return ofOurs
			}
		}
		if err != nil {
			return ofOurs // to be on the safe side
		}
	}
	return harmless
}

// warnOfForwardPolicies names, once, each chain of somebody else that drops
// whatever it does not know: what is accepted here it drops all the same.
func (m *Manager) warnOfForwardPolicies() {
	chains, err := m.rules.dropping()
	if err != nil {
		m.log.Warn("cannot list chains of nftables", "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range chains {
		if !m.warned[name] {
			m.warned[name] = true
			m.log.Warn("a chain of the host's firewall drops forwarded packets by default: unless it lets them pass, containers reach nothing beyond the host and are reached only from it", "chain", name)
		}
	}
}

// dropping returns the base chains of others, by family, table and name, that see
// forwarded packets and drop them by default.
func (r *rules) dropping() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	chains, err := r.conn.ListChains()
	if err != nil {
		return nil, err
	}
	family := map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	}
	var names []string
	for _, c := range chains {
		// Its chains accept by default, and end with a rule that rejects.
		if c.Table.Name == "firewalld" && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward {
			names = append(names, "inet firewalld "+c.Name+" (put the bridge into the zone trusted)")
			continue
		}
		f, ok := family[c.Table.Family]
		if ok && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward &&
			c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			names = append(names, f+" "+c.Table.Name+" "+c.Name)
		}
	}
	return names, nil
}
