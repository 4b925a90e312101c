package volumes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/sys/mount"

	"github.com/berth-registry/berth/runner"
)

// The options of the local driver: what mount(8) calls a file system's type, its
// source and its options, and a quota.
const (
	optType   = "type"
	optDevice = "device"
	optData   = "o"
	optSize   = "size"
)

// checkOptions says what of the options of a volume is wrong.
func checkOptions(opts map[string]string) error {
	needs := map[string][]string{optDevice: {optType}, optType: {optDevice}, optData: {optDevice, optType}, optSize: nil}
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		needed, known := needs[key]
		if !known {
			return runner.Errorf(runner.ErrInvalid, "invalid option: %q", key)
		}
		for _, other := range needed {
			if _, ok := opts[other]; !ok {
				return runner.Errorf(runner.ErrInvalid, "missing required option: %q", other)
			}
		}
		if strings.ContainsRune(opts[key], 0) {
			return runner.Errorf(runner.ErrInvalid, "invalid value of option: %q", key)
		}
	}
	if text, ok := opts[optSize]; ok {
		size, err := units.RAMInBytes(text)
		switch {
		case err != nil:
			return runner.Errorf(runner.ErrInvalid, "%w", err)
		case size > 0:
			return runner.Errorf(runner.ErrInvalid, "quota size requested but no quota support")
		}
	}
	return nil
}

// mountDevice mounts what the options of a volume name on target. What is in the
// error of its password is hidden.
func mountDevice(ctx context.Context, opts map[string]string, target string) error {
	if opts[optDevice] == "" {
		return errors.New("missing device in volume options")
	}
	data, err := resolveAddress(ctx, opts)
	if err != nil {
		return err
	}
	if err := mount.Mount(opts[optDevice], target, opts[optType], data); err != nil {
		text := err.Error()
		if password := dataValue(data, "password"); password != "" {
			text = strings.ReplaceAll(text, "password="+password, "password=********")
		}
		return fmt.Errorf("failed to mount local volume: %s", text)
	}
	return nil
}

// resolveAddress returns the mount options with the address of the server that
// the options of a network's file system name: the kernel resolves no names.
func resolveAddress(ctx context.Context, opts map[string]string) (string, error) {
	data := opts[optData]
	switch opts[optType] {
	case "nfs", "nfs4", "cifs":
	default:
		return data, nil
	}
	if name := dataValue(data, "addr"); name != "" {
		addr, err := lookUp(ctx, name)
		if err != nil {
			return "", err
		}
		parts := strings.Split(data, ",")
		parts[slices.Index(parts, "addr="+name)] = "addr=" + addr
		return strings.Join(parts, ","), nil
	}
	if opts[optType] != "cifs" || dataValue(data, "ip") != "" {
		return data, nil
	}
	device, err := url.Parse(opts[optDevice])
	if err != nil {
		return "", fmt.Errorf("error parsing mount device url: %w", err)
	}
	if device.Hostname() == "" {
		return data, nil
	}
	addr, err := lookUp(ctx, device.Hostname())
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(data+",addr="+addr, ","), nil
}

func lookUp(ctx context.Context, name string) (string, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr.String(), nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return "", fmt.Errorf("error resolving passed in network volume address: %w", err)
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.Unmap().BitLen() - b.Unmap().BitLen() })
	return addrs[0].Unmap().String(), nil
}

// dataValue is the value of one of the options of a mount.
func dataValue(data, key string) string {
	for option := range strings.SplitSeq(data, ",") {
		if value, ok := strings.CutPrefix(option, key+"="); ok {
			return value
		}
	}
	return ""
}
