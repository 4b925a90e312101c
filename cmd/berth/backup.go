package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/backup"
	"github.com/berth-registry/berth/internal/cli"
)

const backupTarget = `
A target is a directory or s3://BUCKET[/PREFIX]. For a bucket, --s3-endpoint,
--s3-region, --s3-access-key and --s3-secret-key-file say how to get at it, or
AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY do.`

const backupJSON = `

With --json: {"snapshot", "created", "blobs", "bytes", "copied_blobs", "copied_bytes",
"present_blobs", "problems": COUNT, "removed_snapshots", "removed_blobs",
"removed_bytes", "damaged": [{"digest", "reason"}, ...]}.`

// s3Flags say how to get at a bucket.
type s3Flags struct {
	endpoint, region, key, secretFile string
}

func addS3Flags(cmd *cobra.Command) *s3Flags {
	f := &s3Flags{}
	cmd.Flags().StringVar(&f.endpoint, "s3-endpoint", "", "the `URL` of the S3 server, such as https://minio.example.com; Amazon's if there is none")
	cmd.Flags().StringVar(&f.region, "s3-region", "", "the `REGION` of the bucket")
	cmd.Flags().StringVar(&f.key, "s3-access-key", "", "the `ID` of the access key")
	cmd.Flags().StringVar(&f.secretFile, "s3-secret-key-file", "", "read the secret of the access key from this `FILE`")
	return f
}

// load reads what the flags and the environment say.
func (f *s3Flags) load() (admin.S3, error) {
	s := admin.S3{
		Endpoint: cmp.Or(f.endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL")),
		Region:   cmp.Or(f.region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
		Key:      cmp.Or(f.key, os.Getenv("AWS_ACCESS_KEY_ID")),
		Secret:   os.Getenv("AWS_SECRET_ACCESS_KEY"),
		Session:  os.Getenv("AWS_SESSION_TOKEN"),
	}
	if f.secretFile != "" {
		text, err := os.ReadFile(f.secretFile)
		if err != nil {
			return s, fmt.Errorf("--s3-secret-key-file: %w", err)
		}
		s.Secret, s.Session = strings.TrimSpace(string(text)), ""
	}
	return s, nil
}

// target is where backups are, as a server understands it.
func (f *s3Flags) target(name string) (string, admin.S3, error) {
	if isBucket(name) {
		if bucket, _, _ := strings.Cut(strings.TrimPrefix(name, "s3://"), "/"); bucket == "" {
			return "", admin.S3{}, cli.Usage(fmt.Errorf("%q: want s3://BUCKET or s3://BUCKET/PREFIX", name))
		}
		s3, err := f.load()
		return name, s3, err
	}
	if scheme, _, ok := strings.Cut(name, "://"); ok {
		return "", admin.S3{}, cli.Usage(fmt.Errorf("%q: there are no backups by %s: want a directory or s3://BUCKET/PREFIX", name, scheme))
	}
	path, err := filepath.Abs(name)
	return path, admin.S3{}, err
}

func newBackupCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup TARGET",
		Short: "Copy all that the registry has somewhere else, while it runs",
		Long: `Copy all that the registry has to a target: the metadata as it is at one moment, and the
bytes that are not there yet. Pushes, pulls and deletes go on meanwhile. What was
copied is not copied again, by the next backup or by one that was cut short.
` + backupTarget + `

A running server makes the backup, so a directory is one of its machine, and it must
be able to write there. Each registry needs a target of its own.

A backup holds secrets: hashes of passwords and of API keys, and the keys that sign
tokens. Its files can be read by the user that runs the server alone; who can read a
bucket is for you to see to. Uploads that are under way are not in it.

Bytes are hashed when they are copied. Those that are damaged or missing are listed;
the backup is made without them, and the exit code is 1.` + backupJSON,
		Example: "  berth backup /mnt/backup/berth --keep 14\n  berth backup s3://backup/berth --s3-endpoint https://minio.example.com\n  berth backup ls /mnt/backup/berth",
		Args:    cobra.ExactArgs(1),
	}
	data := dataFlags{cmd: cmd}
	data.add()
	s3 := addS3Flags(cmd)
	var r admin.BackupRequest
	cmd.Flags().IntVar(&r.Keep, "keep", 0, "then remove all but the newest `N` snapshots, and bytes that none of those needs; 0 keeps all")
	cmd.Flags().BoolVar(&r.Verify, "verify", false, "read again what is at the target, and copy anew what is damaged there")
	cmd.Flags().IntVar(&r.Jobs, "jobs", 0, "copy `N` blobs at a time; 0 for the usual number")
	asJSON := cmd.Flags().Bool("json", false, "print JSON, in a shape that stays")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if r.Keep < 0 || r.Jobs < 0 || r.Jobs > maxBackupJobs {
			return cli.Usage(fmt.Errorf("want 0 or more for --keep, and 0 to %d for --jobs", maxBackupJobs))
		}
		if r.Target, r.S3, err = s3.target(args[0]); err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		cfg, err := data.load()
		if err != nil {
			return err
		}
		a, err := openLocal(ctx, cfg, false, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.close()) }()
		return runBackup(ctx, cmd, a, r, *asJSON)
	}
	cmd.AddCommand(newBackupLsCmd())
	return cmd
}

// runBackup has a server make a backup, and shows it.
func runBackup(ctx context.Context, cmd *cobra.Command, a *administration, r admin.BackupRequest, asJSON bool) error {
	show := newBackupBar(cmd.ErrOrStderr(), asJSON)
	err := a.Backup(ctx, r, func(step admin.BackupStep) error { show.tell(step); return nil })
	show.end()
	if show.done.Snapshot == "" {
		return a.explain(err, "cannot back up to "+r.Target)
	}
	if perr := show.print(cmd.OutOrStdout(), asJSON); perr != nil {
		return errors.Join(err, perr)
	}
	if err != nil {
		return a.explain(err, "the backup is made, but")
	}
	return show.problems("backed up")
}

// backupBar shows how far a backup or a restore is, and what became of it.
type backupBar struct {
	w       io.Writer
	bars    *mpb.Progress // nil if there is no terminal
	bar     *mpb.Bar
	done    admin.BackupDone
	damaged []admin.BackupProblem
}

func newBackupBar(w io.Writer, quiet bool) *backupBar {
	b := &backupBar{w: w}
	if b.bars = newBars(w, quiet); b.bars == nil {
		return b
	}
	b.bar = b.bars.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.AppendDecorators(decor.CountersKiloByte("% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1000(0), " % .1f")))
	return b
}

func (b *backupBar) tell(step admin.BackupStep) {
	switch {
	case step.Problem != nil:
		b.damaged = append(b.damaged, *step.Problem)
	case step.Done != nil:
		b.done = *step.Done
	}
	if b.bars != nil && step.Done == nil {
		b.bar.SetTotal(step.TotalBytes+1, false) // it ends when all is written
		b.bar.SetCurrent(step.Bytes)
	}
}

// end takes the bar away, and lists what is damaged.
func (b *backupBar) end() {
	if b.bars != nil {
		b.bar.Abort(true)
		b.bars.Wait()
	}
	for _, p := range b.damaged {
		_, _ = fmt.Fprintf(b.w, "%s: %s\n", printable(p.Digest), printable(p.Reason))
	}
}

// print says what was done.
func (b *backupBar) print(w io.Writer, asJSON bool) error {
	d := b.done
	if asJSON {
		damaged := b.damaged
		if damaged == nil {
			damaged = []admin.BackupProblem{}
		}
		return printJSON(w, struct {
			admin.BackupDone
			Damaged []admin.BackupProblem `json:"damaged"`
		}{d, damaged})
	}
	_, err := fmt.Fprintf(w, "%s: %s (%s), %d copied (%s), %d were there\n", printable(d.Snapshot),
		countOf(int(d.Blobs), "blob"), humanSize(d.Bytes), d.CopiedBlobs, humanSize(d.CopiedBytes), d.PresentBlobs)
	if err == nil && d.RemovedSnapshots+int(d.RemovedBlobs) > 0 {
		_, err = fmt.Fprintf(w, "removed %s and %s (%s)\n", countOf(d.RemovedSnapshots, "older snapshot"), countOf(int(d.RemovedBlobs), "blob"), humanSize(d.RemovedBytes))
	}
	return err
}

// problems is the error of a backup or a restore that is done, but for some bytes.
func (b *backupBar) problems(verb string) error {
	if b.done.Problems == 0 {
		return nil
	}
	return fmt.Errorf("%s could not be %s: see above", countOf(int(b.done.Problems), "blob"), verb)
}

func newBackupLsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls TARGET",
		Short: "List the snapshots of a target",
		Long: `List the snapshots of a target, the newest first.
` + backupTarget + `

With --json: {"snapshots": [{"snapshot", "created", "size"}, ...]}; size is that of the
metadata, in bytes.`,
		Args: cobra.ExactArgs(1),
	}
	s3 := addS3Flags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON, in a shape that stays")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, access, err := s3.target(args[0])
		if err != nil {
			return err
		}
		t, err := openTarget(cmd.Context(), name, access, false)
		if err != nil {
			return err
		}
		defer func() { _ = t.Close() }() // it was only read
		all, err := backup.List(cmd.Context(), t)
		if err != nil {
			return fmt.Errorf("cannot list the snapshots of %s: %w", name, err)
		}
		return printSnapshots(cmd.OutOrStdout(), all, *asJSON)
	}
	return cmd
}

func printSnapshots(w io.Writer, all []backup.Snapshot, asJSON bool) error {
	if asJSON {
		type snapshot struct {
			Snapshot string    `json:"snapshot"`
			Created  time.Time `json:"created"`
			Size     int64     `json:"size"`
		}
		list := struct {
			Snapshots []snapshot `json:"snapshots"`
		}{[]snapshot{}}
		for _, s := range all {
			list.Snapshots = append(list.Snapshots, snapshot{s.Name, s.Created, s.Size})
		}
		return printJSON(w, list)
	}
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "SNAPSHOT\tCREATED\tMETADATA") // Flush tells
	for _, s := range all {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\n", s.Name, ago(&s.Created, "-"), humanSize(s.Size))
	}
	return t.Flush()
}
