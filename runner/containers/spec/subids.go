package spec

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// remapUser is whose subordinate IDs containers get by userns_remap: default.
const remapUser = "berth"

// maxIDMaps is how many maps a user namespace can have.
const maxIDMaps = 340

// FindRemap returns the user namespace for containers that asked, as USER[:GROUP] or
// default, by the subordinate IDs in /etc/subuid and /etc/subgid: those of the user
// and of the group, which is the one with the user's name unless it is given. An
// error says what to do.
func FindRemap(asked string) (UserNamespace, error) {
	var u UserNamespace
	name, group, _ := strings.Cut(asked, ":")
	if asked == "default" {
		name = remapUser
	}
	if group == "" {
		group = name
	}
	var err error
	if u.UIDs, err = subordinate("/etc/subuid", "uids", name, userNames(name)); err != nil {
		return UserNamespace{}, err
	}
	u.GIDs, err = subordinate("/etc/subgid", "gids", group, groupNames(group))
	return u, err
}

// userNames are what stands for a user in /etc/subuid: its name or its number.
func userNames(name string) []string {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return []string{name}
		}
	}
	return []string{u.Username, u.Uid}
}

func groupNames(name string) []string {
	g, err := user.LookupGroup(name)
	if err != nil {
		if g, err = user.LookupGroupId(name); err != nil {
			return []string{name}
		}
	}
	return []string{g.Name, g.Gid}
}

func subordinate(path, what, name string, names []string) ([]specs.LinuxIDMapping, error) {
	f, err := os.Open(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var maps []specs.LinuxIDMapping
	if err == nil {
		defer f.Close()
		if maps, err = parseSubIDs(f, names); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if len(maps) == 0 {
		return nil, fmt.Errorf("%s has no entry for %s, so there are no users for containers to be; "+
			"choose a range that is free there and on the host, and add it: usermod --add-sub%s 100000-165535 %s", path, name, what, name)
	}
	return maps, nil
}

// parseSubIDs reads the ranges of one of the names from a file like /etc/subuid
// (subuid(5)). Together they are the IDs of a container from 0 on.
func parseSubIDs(r io.Reader, names []string) ([]specs.LinuxIDMapping, error) {
	var maps []specs.LinuxIDMapping
	next := uint64(0)
	scan := bufio.NewScanner(r)
	for scan.Scan() {
		name, rest, _ := strings.Cut(strings.TrimSpace(scan.Text()), ":")
		if name == "" || name != names[0] && name != names[len(names)-1] {
			continue
		}
		first, count, _ := strings.Cut(rest, ":")
		start, err1 := strconv.ParseUint(first, 10, 32)
		size, err2 := strconv.ParseUint(count, 10, 32)
		const all = 1 << 32
		switch {
		case err1 != nil || err2 != nil:
			return nil, fmt.Errorf("invalid entry %q", scan.Text())
		case start == 0:
			return nil, fmt.Errorf("entry %q has the host's root among the users of containers", scan.Text())
		case start+size >= all || next+size >= all:
			return nil, fmt.Errorf("entry %q has more than there are", scan.Text())
		case size == 0:
			continue
		case len(maps) == maxIDMaps-1: // one is for the host's root, in mounts
			return nil, fmt.Errorf("more than %d entries for %s", maxIDMaps-1, names[0])
		}
		maps = append(maps, specs.LinuxIDMapping{ContainerID: uint32(next), HostID: uint32(start), Size: uint32(size)})
		next += size
	}
	return maps, scan.Err()
}
