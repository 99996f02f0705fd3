package pgsource

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// startFunction and stopFunction changed their names with 15.
func startFunction(major int) string {
	if major < 15 {
		return "pg_start_backup(text, boolean, boolean)"
	}
	return "pg_backup_start(text, boolean)"
}

func stopFunction(major int) string {
	if major < 15 {
		return "pg_stop_backup(boolean, boolean)"
	}
	return "pg_backup_stop(boolean)"
}

// neededFunctions are all that a backup calls and that a careful administrator may have taken from PUBLIC. PostgreSQL itself
// gives all but the first two to everybody (system_functions.sql).
func neededFunctions(major int) []string {
	return []string{
		startFunction(major),
		stopFunction(major),
		"pg_control_system()",
		"pg_is_in_recovery()",
		"pg_current_wal_insert_lsn()",
		"pg_current_wal_flush_lsn()",
		"pg_last_wal_replay_lsn()",
		"pg_last_wal_receive_lsn()",
		"pg_last_xact_replay_timestamp()",
		"pg_current_snapshot()",
		"pg_snapshot_xmax(pg_snapshot)",
	}
}

// checkPrivileges asks for everything at once, so that the person has to ask for grants only once. pg_read_all_settings is for
// data_directory and the paths of the configuration files, which are hidden from other roles.
func (c *Cluster) checkPrivileges(ctx context.Context) error {
	settings, missing, err := c.missing(ctx, neededFunctions(c.info.Major()))
	if err != nil {
		return err
	}
	if !settings {
		missing = append([]string{"pg_read_all_settings"}, missing...)
	}
	return c.privilegeError(ctx, missing)
}

// missing returns whether the role may read all settings, and which of the functions it may not call.
func (c *Cluster) missing(ctx context.Context, functions []string) (settings bool, missing []string, err error) {
	err = c.row(ctx, "SELECT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')", nil, &settings)
	if err != nil {
		return false, nil, fmt.Errorf("read privileges: %w", err)
	}
	err = c.rows(ctx, "SELECT f FROM unnest($1::text[]) WITH ORDINALITY AS u (f, n) "+
		"WHERE NOT has_function_privilege(current_user, 'pg_catalog.' || f, 'EXECUTE') ORDER BY n", []any{functions},
		func(row pgx.CollectableRow) error {
			var f string
			err := row.Scan(&f)
			missing = append(missing, "EXECUTE ON FUNCTION pg_catalog."+f)
			return err
		})
	if err != nil {
		return false, nil, fmt.Errorf("read privileges: %w", err)
	}
	return settings, missing, nil
}

// privilegeError makes statements of what is missing; nil when nothing is.
func (c *Cluster) privilegeError(ctx context.Context, missing []string) error {
	if len(missing) == 0 {
		return nil
	}
	e := &PrivilegeError{}
	var quoted string
	err := c.row(ctx, "SELECT current_user::text, quote_ident(current_user), current_database()::text", nil, &e.Role, &quoted, &e.Database)
	if err != nil {
		return fmt.Errorf("read role: %w", err)
	}
	for _, m := range missing {
		e.Missing = append(e.Missing, "GRANT "+m+" TO "+quoted+";")
	}
	return e
}
