package walreceiver

import (
	"context"
	"strings"
	"time"
)

func (d *drive) setMode(synchronous bool) {
	if d.sync != synchronous {
		d.sync = synchronous
		d.Events.Mode(synchronous)
	}
}

// watchMode asks the server now and then whether it waits for the process of that ID, until ctx ends. It does so on a connection of its own each time: one that stayed
// would keep a server from stopping smartly.
func watchMode(ctx context.Context, beside Beside, pid uint32, found chan<- bool) {
	for pause := time.Second; ; pause = min(2*pause, modeEvery) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		synchronous, err := askMode(ctx, beside, pid)
		if err != nil {
			continue // the stream tells whether the server is there
		}
		select {
		case found <- synchronous:
		case <-ctx.Done():
			return
		}
	}
}

// modeEvery is how often the server is asked whether it waits for us.
const modeEvery = 10 * time.Second

func askMode(ctx context.Context, beside Beside, pid uint32) (synchronous bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusEvery)
	defer cancel()
	conn, err := beside(ctx, false)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(ctx) }()
	var state, names, name string
	err = conn.QueryRow(ctx, "SELECT coalesce((SELECT sync_state FROM pg_catalog.pg_stat_replication WHERE pid = $1::int), ''), "+
		"pg_catalog.current_setting('synchronous_standby_names'), pg_catalog.current_setting('application_name')", int32(pid)).Scan(&state, &names, &name)
	if err != nil {
		return false, err
	}
	if state == "" { // only roles with pg_read_all_stats are told
		return names != "" && isNamed(names, name), nil
	}
	return state == "sync" || state == "quorum", nil
}

// isNamed says whether a server with these synchronous_standby_names may wait for a standby of the name. It reads no grammar: that a name which is also a word
// of it ("any") counts as named makes more requests, and no commit wait.
func isNamed(names, name string) bool {
	for names != "" {
		var word string
		if names[0] == '"' {
			word, names = quoted(names[1:])
		} else if n := strings.IndexAny(names, " \t\r\n\f\v,()\""); n != 0 {
			if n < 0 {
				n = len(names)
			}
			word, names = names[:n], names[n:]
		} else {
			names = names[1:]
			continue
		}
		if word == "*" || strings.EqualFold(word, name) {
			return true
		}
	}
	return false
}

// quoted returns a quoted name, where a double quote stands for one, and what follows it.
func quoted(s string) (name, rest string) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `"`)
		b.WriteString(before)
		if !found || !strings.HasPrefix(after, `"`) {
			return b.String(), after
		}
		b.WriteByte('"')
		s = after[1:]
	}
}
