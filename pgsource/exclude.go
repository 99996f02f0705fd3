package pgsource

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walahead"
)

// The rules of what a base backup leaves out, by paths relative to the data directory. They are those of 13 to 18
// (excludeDirContents and excludeFiles in basebackup.c); what goes beyond them says so. PostgreSQL compares names at any
// depth; here a name counts where a server puts it.

// emptied reports whether a directory stays and its contents do not: the server removes or recreates them when it starts, or
// they come with the WAL.
func (w *walker) emptied(rel string) bool {
	switch rel {
	case "pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans":
		return true
	}
	return w.statsTemp != "" && rel == w.statsTemp
}

// excluded reports whether a file or directory is left out altogether.
func excluded(rel, name string) bool {
	switch rel {
	case "postmaster.pid", "postmaster.opts", "backup_label", "tablespace_map", "backup_manifest",
		"postgresql.auto.conf.tmp", "current_logfiles.tmp":
		return true
	case "backup_label.old", "tablespace_map.old": // renamed by the recovery that used them: of another backup
		return true
	case LastBackupFile, walahead.LedgerFile, snapshot.UnarchivedDir: // ours: of this directory, not of a copy
		return true
	}
	if rel == name && strings.HasPrefix(name, durable.TempPrefix) {
		return true // left in the data directory itself by a restore, or another writer of ours, that was killed
	}
	return strings.HasPrefix(name, "pgsql_tmp") || // temporary files, and the directories of them
		strings.HasPrefix(name, "pg_internal.init") || // relation cache, in global and each database
		name == ".DS_Store"
}

// relativeStatsTemp is stats_temp_directory, which 13 and 14 let one choose, relative to the data directory; "" when it lies
// elsewhere.
func relativeStatsTemp(setting, root, serverDir string) string {
	if setting == "" {
		return ""
	}
	if !filepath.IsAbs(setting) {
		rel := filepath.Clean(setting)
		if rel == ".." || strings.HasPrefix(rel, "../") || rel == "." {
			return ""
		}
		return rel
	}
	for _, dir := range slices.Compact([]string{root, serverDir}) {
		if rel, ok := below(dir, filepath.Clean(setting)); ok {
			return rel
		}
	}
	return ""
}

// below returns the path of a file relative to a directory that it lies in. Both are clean and absolute.
func below(dir, path string) (string, bool) {
	if dir == "/" {
		return strings.TrimPrefix(path, "/"), path != "/"
	}
	return strings.CutPrefix(path, dir+"/")
}
