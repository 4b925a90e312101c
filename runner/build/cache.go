package build

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/disk"
	apibuild "github.com/moby/moby/api/types/build"

	"github.com/berth-registry/berth/runner"
)

const day = 24 * time.Hour

// gcPolicy is what goes by itself: what is easily had again after two days, and
// all else that makes the cache too large, the longest unused first.
func gcPolicy(root string, size int64) []client.PruneInfo {
	if size == 0 {
		if st, err := disk.GetDiskStat(root); err == nil {
			size = st.Total / 10
		}
	}
	return []client.PruneInfo{
		{
			Filter:       []string{"type==source.local", "type==exec.cachemount", "type==source.git.checkout"},
			KeepDuration: 2 * day, MaxUsedSpace: min(size, 512e6),
		},
		{KeepDuration: 60 * day, MaxUsedSpace: size},
		{MaxUsedSpace: size},
		{All: true, MaxUsedSpace: size},
	}
}

// DiskUsage lists what the cache is made of, the latest used first.
func (b *Builder) DiskUsage(ctx context.Context) ([]apibuild.CacheRecord, error) {
	ctx, leave, err := b.join(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	list, err := b.worker.DiskUsage(ctx, client.DiskUsageInfo{})
	if err != nil {
		return nil, err
	}
	records := make([]apibuild.CacheRecord, 0, len(list))
	for _, u := range list {
		records = append(records, record(u))
	}
	slices.SortFunc(records, func(a, b apibuild.CacheRecord) int { return lastUse(b).Compare(lastUse(a)) })
	return records, nil
}

func lastUse(r apibuild.CacheRecord) time.Time {
	if r.LastUsedAt != nil {
		return *r.LastUsedAt
	}
	return r.CreatedAt
}

func record(u *client.UsageInfo) apibuild.CacheRecord {
	return apibuild.CacheRecord{
		ID: u.ID, Parents: u.Parents, Type: string(u.RecordType), Description: u.Description, InUse: u.InUse, Shared: u.Shared,
		Size: u.Size, CreatedAt: u.CreatedAt, LastUsedAt: u.LastUsedAt, UsageCount: u.UsageCount,
	}
}

// Prune removes what of the cache is not in use.
func (b *Builder) Prune(ctx context.Context, opts runner.BuildPruneOptions) (report apibuild.CachePruneReport, err error) {
	info, err := pruneInfo(opts)
	if err != nil {
		return report, err
	}
	ctx, leave, err := b.join(ctx)
	if err != nil {
		return report, err
	}
	defer leave()
	done, err := b.guard.use()
	if err != nil {
		return report, err
	}
	defer done()
	gone, read := make(chan client.UsageInfo), make(chan struct{})
	go func() {
		defer close(read)
		for u := range gone {
			report.CachesDeleted = append(report.CachesDeleted, u.ID)
			report.SpaceReclaimed += uint64(max(u.Size, 0))
		}
	}()
	err = b.worker.Prune(ctx, gone, info)
	close(gone)
	<-read
	if err != nil {
		return report, err
	}
	if err := b.results.ReleaseUnreferenced(ctx); err != nil {
		return report, err
	}
	if info.All && len(info.Filter) == 0 && info.KeepDuration == 0 {
		return report, b.forgetHistory(ctx)
	}
	return report, nil
}

// pruneInfo puts docker's filters into BuildKit's words.
func pruneInfo(opts runner.BuildPruneOptions) (client.PruneInfo, error) {
	info := client.PruneInfo{
		All: opts.All, ReservedSpace: opts.KeepStorage, MaxUsedSpace: opts.MaxUsedSpace, MinFreeSpace: opts.MinFreeSpace,
	}
	var filter []string
	for key, values := range opts.Filters {
		if len(values) > 1 {
			return info, runner.Errorf(runner.ErrInvalid, "filters expect only one value")
		}
		value := strings.Join(values, "")
		switch key {
		case "until", "unused-for":
			age, err := age(value)
			if err != nil {
				return info, runner.Errorf(runner.ErrInvalid, "%q filter expects a duration (e.g., '24h') or a timestamp", key)
			}
			info.KeepDuration = age
		case "id":
			filter = append(filter, "id~="+value)
		case "parent":
			filter = append(filter, "parents~="+value)
		case "type", "description":
			filter = append(filter, key+"=="+value)
		case "inuse", "shared", "private", "mutable", "immutable":
			f, err := flagFilter(key, value)
			if err != nil {
				return info, err
			}
			filter = append(filter, f...)
		default:
			return info, runner.Errorf(runner.ErrInvalid, "invalid filter '%s'", key)
		}
	}
	if len(filter) > 0 {
		slices.Sort(filter)
		info.Filter = []string{strings.Join(filter, ",")}
	}
	return info, nil
}

// age is how long ago a time is, given so or as a duration.
func age(s string) (time.Duration, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return d, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0, err
	}
	return max(time.Since(t), 0), nil
}

// flagFilter is the filter for what is so, or is not: BuildKit has no negation.
func flagFilter(key, value string) ([]string, error) {
	switch value {
	case "", "1", "true":
		return []string{key}, nil
	case "0", "false":
		opposite := map[string]string{"shared": "private", "private": "shared", "mutable": "immutable", "immutable": "mutable"}[key]
		if opposite == "" {
			return nil, nil // what is in use is never removed
		}
		return []string{opposite}, nil
	}
	return nil, runner.Errorf(runner.ErrInvalid, "invalid filter '%s=%s'", key, value)
}
