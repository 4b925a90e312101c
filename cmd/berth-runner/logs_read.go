package main

import (
	"bufio"
	"container/heap"
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

// maxLogLine bounds a line of a log in memory; a longer one is shown in pieces.
const maxLogLine = 256 << 10

// logLine is a line that a container has written.
type logLine struct {
	from string // name of the container
	at   string // when, as the runner says it
	text string // without its end
}

// lines reads the log of a container. since and tail are as the runner takes them.
func (l *logReader) lines(ctx context.Context, s source, since, tail string, follow bool) iter.Seq2[logLine, error] {
	return func(yield func(logLine, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		r, err := l.client.docker.ContainerLogs(ctx, s.id, client.ContainerLogsOptions{
			ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: follow, Since: since, Tail: tail,
		})
		if err != nil {
			yield(logLine{}, err)
			return
		}
		defer r.Close()
		var text io.Reader = r
		if !s.tty {
			pr, pw := io.Pipe()
			defer pr.Close()
			go func() {
				_, err := stdcopy.StdCopy(pw, pw, r)
				pw.CloseWithError(err)
			}()
			text = pr
		}
		b := bufio.NewReaderSize(text, maxLogLine)
		at := ""
		for cut := false; ; {
			raw, more, err := b.ReadLine()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					yield(logLine{}, err)
				}
				return
			}
			line := string(raw)
			if !cut { // what follows a piece has no time of its own
				at, line, _ = strings.Cut(line, " ")
			}
			cut = more
			if !yield(logLine{s.name, at, strings.TrimSuffix(line, "\r")}, nil) {
				return
			}
		}
	}
}

// merge prints the logs of containers by time, without more than a line of each in
// memory.
func (l *logReader) merge(ctx context.Context, sources []source) error {
	var q mergeQueue
	var stops []func()
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for _, s := range sources {
		next, stop := iter.Pull2(l.lines(ctx, s, l.o.since, l.o.tail, false))
		stops = append(stops, stop)
		switch line, err, ok := next(); {
		case err != nil:
			l.warn(s, err)
		case ok:
			q = append(q, merged{line, when(line), next})
		}
	}
	heap.Init(&q)
	for len(q) > 0 {
		first := q[0]
		if err := l.out.print(first.line); err != nil {
			return err
		}
		line, err, ok := first.next()
		switch {
		case err != nil:
			return err
		case !ok:
			heap.Pop(&q)
		default:
			q[0].line, q[0].at = line, when(line)
			heap.Fix(&q, 0)
		}
	}
	return nil
}

// mergeQueue is a heap of logs by the time of their next line.
type mergeQueue []merged

type merged struct {
	line logLine
	at   time.Time // of the line
	next func() (logLine, error, bool)
}

// Len implements heap.Interface.
func (q mergeQueue) Len() int { return len(q) }

// Less implements heap.Interface.
func (q mergeQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }

// Swap implements heap.Interface.
func (q mergeQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *mergeQueue) Push(x any) { *q = append(*q, x.(merged)) }

// Pop implements heap.Interface.
func (q *mergeQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// when is the time of a line; zero if it has none.
func when(l logLine) time.Time {
	t, err := time.Parse(time.RFC3339Nano, l.at)
	if err != nil {
		return time.Time{}
	}
	return t
}
