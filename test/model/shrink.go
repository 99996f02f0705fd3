package model

import (
	"maps"
	"regexp"
	"slices"
)

// kindOf gives a violation without the names in it: shrinking a schedule that loses a chunk should not end at one that leaks a pack.
func kindOf(violation string) string {
	return regexp.MustCompile(`[0-9a-f]{8,}|\d+|\(.*|:.*`).ReplaceAllString(violation, "#")
}

// shrink looks for tamer choices with which a schedule still fails, as judged by fails, and gives up after some trials.
func shrink(choices map[string][]int, trials int, fails func(map[string][]int) bool) map[string][]int {
	s := shrinker{best: choices, left: trials, fails: fails}
	for improved := true; improved && s.left > 0; {
		improved = false
		for _, name := range s.names() {
			improved = s.shorten(name) || improved
			improved = s.tame(name) || improved
			improved = s.drop(name) || improved
		}
	}
	return s.best
}

type shrinker struct {
	best  map[string][]int
	left  int
	fails func(map[string][]int) bool
}

// names gives the tapes: the plan first, since the most hangs on it.
func (s *shrinker) names() []string {
	names := slices.Sorted(maps.Keys(s.best))
	return append([]string{planTape}, slices.DeleteFunc(names, func(n string) bool { return n == planTape })...)
}

// try takes a tape over if the schedule still fails with it.
func (s *shrinker) try(name string, t []int) bool {
	if s.left == 0 {
		return false
	}
	s.left--
	c := maps.Clone(s.best)
	c[name] = t
	if !s.fails(c) {
		return false
	}
	s.best = c
	return true
}

// shorten cuts the end off: after it, everything is tame.
func (s *shrinker) shorten(name string) (improved bool) {
	for cut := len(s.best[name]); cut > 0; cut /= 2 {
		for t := s.best[name]; len(t) >= cut && s.try(name, t[:len(t)-cut]); t = s.best[name] {
			improved = true
		}
	}
	return improved
}

// tame makes choices tame, many at once and then fewer.
func (s *shrinker) tame(name string) (improved bool) {
	for size := len(s.best[name]); size > 0; size /= 2 {
		for at := 0; at < len(s.best[name]); at += size {
			t := slices.Clone(s.best[name])
			part := t[at:min(at+size, len(t))]
			if !slices.ContainsFunc(part, func(v int) bool { return v != 0 }) {
				continue
			}
			clear(part)
			improved = s.try(name, t) || improved
		}
	}
	return improved
}

// drop takes choices out, so that what comes after them comes earlier.
func (s *shrinker) drop(name string) (improved bool) {
	for size := min(64, len(s.best[name])); size > 0; size /= 2 {
		for at := len(s.best[name]) - size; at >= 0; at -= size {
			if at+size > len(s.best[name]) {
				continue
			}
			t := slices.Delete(slices.Clone(s.best[name]), at, at+size)
			improved = s.try(name, t) || improved
		}
	}
	return improved
}
