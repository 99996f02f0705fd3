package walahead

import (
	"fmt"
	"os"
	"path/filepath"
)

// Waiting says how many WAL files the server has marked as waiting to be archived, stopping at most.
func Waiting(walDir string, most int) (int, error) {
	d, err := os.Open(filepath.Join(walDir, "archive_status"))
	if err != nil {
		return 0, fmt.Errorf("look what waits to be archived: %w", err)
	}
	defer d.Close()
	n := 0
	for n < most {
		names, err := d.Readdirnames(1000)
		for _, name := range names {
			if filepath.Ext(name) == readySuffix {
				n++
			}
		}
		if len(names) == 0 {
			break
		}
		if err != nil {
			return n, fmt.Errorf("look what waits to be archived: %w", err)
		}
	}
	return n, nil
}

const readySuffix = ".ready"

// Ready says whether the server has marked the file as waiting to be archived. It looks at one name, however many wait.
func Ready(walDir, name string) bool {
	_, err := os.Lstat(filepath.Join(walDir, "archive_status", name+readySuffix))
	return err == nil
}
