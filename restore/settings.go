package restore

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Action is what the server does when it has come to the target: recovery_target_action.
type Action string

// The actions. PostgreSQL's own default is pause.
const (
	Promote  Action = "promote"
	Pause    Action = "pause"
	Shutdown Action = "shutdown"
)

// Recovery is how the restored server recovers when it is started.
type Recovery struct {
	Command string // restore_command
	Target  Target
	// Timeline is what the target's goal came to; 0 leaves recovery_target_timeline at PostgreSQL's default, latest.
	Timeline pg.Timeline
	// OwnTimeline says that Timeline is the snapshot's own, which PostgreSQL need not have a history file of.
	OwnTimeline bool
	Action      Action // "": promote
	// Standby makes the server a standby, which goes on following the archive and its primary.
	Standby         bool
	PrimaryConninfo string // primary_conninfo, for a standby; may be empty
	PrimarySlot     string // primary_slot_name, likewise
}

// Recovery returns the settings that lead to what was chosen. A target's timeline is written down as a number: what was
// found reachable is followed, even if another timeline appears before the server is started.
func (c *Choice) Recovery(command string, action Action) Recovery {
	r := Recovery{Command: command, Target: c.Target, Action: action}
	if c.Target.Kind != EndOfArchive && c.Target.Kind != Immediate || c.Target.Timeline != (TimelineGoal{}) {
		w := c.Snapshot.Window
		r.Timeline, r.OwnTimeline = c.Timeline, c.Timeline == w.StopTimeline && w.Timeline == w.StopTimeline
	}
	return r
}

// Names of files in a data directory.
const (
	autoConf       = "postgresql.auto.conf"
	recoverySignal = "recovery.signal"
	standbySignal  = "standby.signal"
)

// recoverySettings are all settings that say how or how far a server recovers, in PostgreSQL 13 to 18. What a snapshot
// brings along of them belonged to another recovery.
func recoverySettings() []string {
	return append(targetSettings(), "recovery_target_inclusive", "recovery_target_timeline", "recovery_target_action",
		"restore_command", "archive_cleanup_command", "recovery_end_command", "recovery_min_apply_delay",
		"primary_conninfo", "primary_slot_name", "promote_trigger_file")
}

// targetSettings are those of which at most one may be set (error_multiple_recovery_targets in guc_hooks).
func targetSettings() []string {
	return []string{"recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"}
}

// setting is a line of the configuration.
type setting struct{ name, value string }

// lines returns the settings for r. stale are settings that another configuration file sets: where r does not set them
// itself they are set back. They come before the target, since PostgreSQL's check for a second target looks at the
// ones that it has read so far.
func (r Recovery) lines(stale []string) ([]setting, error) {
	target, err := r.target()
	if err != nil {
		return nil, err
	}
	var all []setting
	if r.Command != "" {
		all = append(all, setting{"restore_command", r.Command})
	}
	if r.PrimaryConninfo != "" {
		all = append(all, setting{"primary_conninfo", r.PrimaryConninfo})
	}
	if r.PrimarySlot != "" {
		all = append(all, setting{"primary_slot_name", r.PrimarySlot})
	}
	all = append(all, target...)
	var reset []setting
	for _, name := range stale {
		if slices.ContainsFunc(all, func(s setting) bool { return s.name == name }) {
			continue
		}
		value, ok := harmless()[name]
		if ok {
			reset = append(reset, setting{name, value})
		}
	}
	return append(reset, all...), nil
}

// harmless is what a setting of another recovery is set back to: PostgreSQL's own default. promote_trigger_file is not
// among them: 16 and later do not know it and would not start.
func harmless() map[string]string {
	values := map[string]string{
		"recovery_target_inclusive": "on", "recovery_target_timeline": "latest", "recovery_target_action": "pause",
		"recovery_min_apply_delay": "0",
	}
	for _, name := range append(targetSettings(), "archive_cleanup_command", "recovery_end_command", "primary_conninfo", "primary_slot_name") {
		values[name] = ""
	}
	return values
}

func (r Recovery) target() ([]setting, error) {
	t := r.Target
	var all []setting
	switch t.Kind {
	case EndOfArchive:
	case AtTime:
		all = append(all, setting{"recovery_target_time", t.Time.UTC().Format("2006-01-02 15:04:05.999999+00")})
	case AtLSN:
		all = append(all, setting{"recovery_target_lsn", t.LSN.String()})
	case AtXID:
		all = append(all, setting{"recovery_target_xid", fmt.Sprint(uint32(t.XID))})
	case AtName:
		all = append(all, setting{"recovery_target_name", t.Name})
	case Immediate:
		all = append(all, setting{"recovery_target", "immediate"})
	default:
		return nil, fmt.Errorf("unknown kind of target %d", t.Kind)
	}
	if t.Kind != EndOfArchive {
		if t.Exclusive {
			all = append(all, setting{"recovery_target_inclusive", "off"})
		}
		action := r.Action
		if action == "" {
			action = Promote
		}
		if !slices.Contains([]Action{Promote, Pause, Shutdown}, action) {
			return nil, fmt.Errorf("unknown target action %q", action)
		}
		all = append(all, setting{"recovery_target_action", string(action)})
	}
	switch {
	case r.OwnTimeline:
		all = append(all, setting{"recovery_target_timeline", "current"})
	case r.Timeline != 0:
		all = append(all, setting{"recovery_target_timeline", fmt.Sprint(uint32(r.Timeline))})
	}
	return all, nil
}

// signal is the file that makes the server recover.
func (r Recovery) signal() string {
	if r.Standby {
		return standbySignal
	}
	return recoverySignal
}

// configure returns the content of postgresql.auto.conf for r: that of the snapshot with its recovery settings
// commented out, and a block at the end, where it wins over every other file.
func (r Recovery) configure(conf []byte, snapshot string, stale []string) ([]byte, error) {
	settings, err := r.lines(stale)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Write(disarm(conf))
	if b.Len() > 0 && b.Bytes()[b.Len()-1] != '\n' {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "# Recovery settings by pgtrove, for snapshot %s\n", snapshot)
	for _, s := range settings {
		quoted, err := quote(s.value)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", s.name, err)
		}
		fmt.Fprintf(&b, "%s = %s\n", s.name, quoted)
	}
	return b.Bytes(), nil
}

// disarm comments out every recovery setting.
func disarm(conf []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(conf) {
		if slices.Contains(recoverySettings(), settingName(line)) {
			b.WriteString("# commented out by pgtrove restore: ")
		}
		b.Write(line)
	}
	return b.Bytes()
}

// settingName is the setting that a line of a configuration file sets, in lower case; "" if it sets none. Names are
// letters, digits, underscores and, for extensions, dots; what follows is white space or an equals sign (guc-file.l).
func settingName(line []byte) string {
	s := strings.TrimLeft(string(line), " \t")
	end := strings.IndexFunc(s, func(c rune) bool {
		return !(c == '_' || c == '.' || c == '$' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
	})
	if end < 0 {
		end = len(s)
	}
	return strings.ToLower(s[:end])
}

// set returns the recovery settings that a configuration file sets.
func set(conf []byte) []string {
	var names []string
	for line := range bytes.Lines(conf) {
		if name := settingName(line); slices.Contains(recoverySettings(), name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// errControl is returned for values that no configuration file can hold.
var errControl = errors.New("the value holds a control character")

// quote writes a value as configuration files want it: in single quotes, with quotes doubled and backslashes escaped
// (DeescapeQuotedString in guc-file.l).
func quote(v string) (string, error) {
	if strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return "", errControl
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(v) + "'", nil
}
