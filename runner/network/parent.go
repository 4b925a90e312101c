package network

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// ensureParent finds the interface of the host that the containers' are made of, or
// makes it: a VLAN's where its name is PARENT.ID, or one that leads nowhere where
// none was asked for.
func (n *lan) ensureParent(host *rtnl) error {
	link, err := netlink.LinkByName(n.Interface)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		if n.Borrowed {
			return fmt.Errorf("parent interface %s: %w", n.Interface, err)
		}
		if link, err = n.makeParent(); err == nil {
			err = host.do(newRequest("set "+n.Interface+" up", unix.RTM_NEWLINK, 0, flagsUp(int32(link.Attrs().Index))))
		}
	}
	if err != nil {
		return fmt.Errorf("parent interface %s: %w", n.Interface, err)
	}
	if link.Attrs().Name == "lo" {
		return runner.Errorf(runner.ErrInvalid, "loopback interface is not a valid %s parent link", n.Driver)
	}
	n.index = int32(link.Attrs().Index)
	if n.mtu == 0 || n.mtu > link.Attrs().MTU {
		n.mtu = link.Attrs().MTU
	}
	return nil
}

func (n *lan) makeParent() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.Interface
	var link netlink.Link = &netlink.Dummy{LinkAttrs: attrs}
	if n.parent != "" {
		name, id, err := vlanOf(n.Interface)
		if err != nil {
			return nil, err
		}
		parent, err := netlink.LinkByName(name)
		if err != nil {
			return nil, err
		}
		attrs.ParentIndex = parent.Attrs().Index
		link = &netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	}
	if err := netlink.LinkAdd(link); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, runner.Errorf(runner.ErrPrecondition, "this kernel has no interfaces of the kind %s", link.Type())
		}
		return nil, err
	}
	return netlink.LinkByName(n.Interface)
}

// vlanOf splits the name of a VLAN's interface.
func vlanOf(name string) (parent string, id int, err error) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", 0, runner.Errorf(runner.ErrInvalid, "invalid subinterface vlan name %s, example formatting is eth0.10", name)
	}
	id, err = strconv.Atoi(name[i+1:])
	if err != nil || id < 1 || id > 4094 {
		return "", 0, runner.Errorf(runner.ErrInvalid, "vlan id must be between 1-4094, received: %s", name[i+1:])
	}
	return name[:i], id, nil
}

// checkParent says why a network cannot share its parent with those there are, in
// Docker's words. Each of them is told from this by its ID.
func (n *lan) checkParent(others []*lan) error {
	for _, o := range others {
		if o.Interface != n.Interface || o.bridged() {
			continue
		}
		switch {
		case o.Driver != n.Driver:
			return runner.Errorf(runner.ErrForbidden, "network %s of driver %s is already using parent interface %s", o.ID, o.Driver, n.Interface)
		case n.Driver == driverMacvlan && n.mode == nl.MACVLAN_MODE_PASSTHRU:
			return runner.Errorf(runner.ErrForbidden, "cannot use mode passthru, macvlan network %s is already using parent interface %s", o.ID, n.Interface)
		case n.Driver == driverMacvlan && o.mode == nl.MACVLAN_MODE_PASSTHRU:
			return runner.Errorf(runner.ErrForbidden, "macvlan network %s is already using parent interface %s in mode passthru", o.ID, n.Interface)
		case n.Driver == driverIPvlan && (o.mode != n.mode || o.flag != n.flag):
			return runner.Errorf(runner.ErrForbidden, "ipvlan network %s is already using parent interface %s in another mode", o.ID, n.Interface)
		}
	}
	return nil
}
