package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// errOther is why a table is made anew: what is there is not the table of this version.
var errOther = errors.New("the table is another")

// reconcile makes the table as it should be by a change of what is not, in one
// transaction: what is right already, packets meet all the while. A table that cannot
// be changed so, such as that of another version, is made anew.
func (r *rules) reconcile() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := layout(r.name)
	d, err := r.compare(t)
	if err == nil {
		err = r.apply(d)
	}
	if err != nil {
		return r.rebuildLocked()
	}
	return nil
}

// difference is what the table should have and has not, and the other way round.
type difference struct {
	wrong           []chain // missing, or with other rules
	surplus         []*nftables.Chain
	missing, excess map[*nftables.Set][]nftables.SetElement
}

func (d difference) none() bool {
	return len(d.wrong)+len(d.surplus)+len(d.missing)+len(d.excess) == 0
}

func (r *rules) compare(t table) (d difference, err error) {
	if err := r.compareChains(t, &d); err != nil {
		return d, err
	}
	there, err := r.conn.GetSets(t.Table)
	if err != nil {
		return d, err
	}
	want := r.elements(t)
	d.missing, d.excess = map[*nftables.Set][]nftables.SetElement{}, map[*nftables.Set][]nftables.SetElement{}
	if len(there) != len(t.sets()) {
		return d, errOther
	}
	for _, s := range t.sets() {
		if !slices.ContainsFunc(there, func(had *nftables.Set) bool { return had.Name == s.Name }) {
			return d, errOther
		}
		have, err := r.read(s)
		if err != nil {
			return d, err
		}
		if list := lacking(have, want[s]); len(list) > 0 {
			d.missing[s] = list
		}
		if list := lacking(want[s], have); len(list) > 0 {
			d.excess[s] = list
		}
	}
	return d, nil
}

// compareChains finds the chains that are not as they should be.
func (r *rules) compareChains(t table, d *difference) error {
	all, err := r.conn.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return err
	}
	there := map[string]*nftables.Chain{}
	for _, c := range all {
		if c.Table.Name == t.Name {
			there[c.Name] = c
		}
	}
	for _, c := range r.chains(t) {
		had := there[c.Name]
		delete(there, c.Name)
		if had == nil {
			d.wrong = append(d.wrong, c)
			continue
		}
		if !sameBase(had, c.Chain) {
			return errOther
		}
		rules, err := r.conn.GetRules(t.Table, c.Chain)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(rules, c.rules, isRule) {
			d.wrong = append(d.wrong, c)
		}
	}
	for _, c := range there {
		d.surplus = append(d.surplus, c)
	}
	return nil
}

// sameBase says whether a chain that is there meets packets where and as it should.
func sameBase(had, want *nftables.Chain) bool {
	return had.Type == want.Type && same(had.Hooknum, want.Hooknum) && same(had.Priority, want.Priority) &&
		(had.Policy == nil || *had.Policy == nftables.ChainPolicyAccept)
}

func same[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func isRule(had *nftables.Rule, want []expr.Any) bool {
	return bytes.Equal(had.UserData, mark(want))
}

// read returns the elements that a set has.
func (r *rules) read(s *nftables.Set) ([]nftables.SetElement, error) {
	list, err := r.conn.GetSetElements(s)
	if err != nil || s.DataType != nftables.TypeVerdict {
		return list, err
	}
	for i, e := range list { // the package leaves the attributes of a verdict as they come
		ad, err := netlink.NewAttributeDecoder(e.Val)
		if err != nil {
			return nil, err
		}
		v := &expr.Verdict{}
		for ad.Next() {
			switch ad.ByteOrder = binary.BigEndian; ad.Type() {
			case unix.NFTA_VERDICT_CODE:
				v.Kind = expr.VerdictKind(ad.Int32())
			case unix.NFTA_VERDICT_CHAIN:
				v.Chain = ad.String()
			}
		}
		if err := ad.Err(); err != nil {
			return nil, err
		}
		list[i].Val, list[i].VerdictData = nil, v
	}
	return list, nil
}

// lacking returns the elements that should be among those there, and are not.
func lacking(there, should []nftables.SetElement) (list []nftables.SetElement) {
	known := make(map[string]bool, len(there))
	for _, e := range there {
		known[identity(e)] = true
	}
	for _, e := range should {
		if !known[identity(e)] {
			list = append(list, e)
		}
	}
	return list
}

func identity(e nftables.SetElement) string {
	var v expr.Verdict
	if e.VerdictData != nil {
		v = *e.VerdictData
	}
	return fmt.Sprintf("%x %t %x %v", e.Key, e.IntervalEnd, e.Val, v)
}

// apply makes a difference none.
func (r *rules) apply(d difference) error {
	if d.none() {
		return nil
	}
	for _, c := range d.wrong {
		r.add(c)
	}
	err := r.queue(inChunks(d.excess), r.conn.SetDeleteElements)
	if err == nil {
		err = r.queue(inChunks(d.missing), r.conn.SetAddElements)
	}
	if err != nil {
		return err
	}
	for _, c := range d.surplus {
		r.drop(c)
	}
	return r.conn.Flush()
}
