package pgsource

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// backupLabel is what recovery reads from a backup_label (read_backup_label in xlogrecovery.c).
type backupLabel struct {
	start      pg.LSN
	checkpoint pg.LSN
	timeline   pg.Timeline
	standby    bool
}

// parseLabel reads the lines that build_backup_content writes, in any order. All of them are in every label since 11.
func parseLabel(text []byte) (backupLabel, error) {
	var l backupLabel
	seen := 0
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			continue
		}
		var err error
		switch key {
		case "START WAL LOCATION": // "0/2000028 (file 000000010000000000000002)"
			lsn, _, _ := strings.Cut(value, " ")
			l.start, err = pg.ParseLSN(lsn)
		case "CHECKPOINT LOCATION":
			l.checkpoint, err = pg.ParseLSN(value)
		case "START TIMELINE": // decimal
			var tli uint64
			tli, err = strconv.ParseUint(value, 10, 32)
			l.timeline = pg.Timeline(tli)
		case "BACKUP FROM":
			l.standby = value == "standby"
		default:
			continue
		}
		if err != nil {
			return backupLabel{}, fmt.Errorf("backup label, %s: %w", key, err)
		}
		seen++
	}
	if seen != 4 {
		return backupLabel{}, errors.New("backup label of an unknown form")
	}
	return l, nil
}
