package main

import "runtime"

// jobs returns how many workers a command uses: what was asked for, else its own default.
func (a *app) jobs(byDefault int) int {
	if a.settings.Jobs > 0 {
		return a.settings.Jobs
	}
	return byDefault
}

// backupJobs leaves most of the machine to the server: a quarter of the CPUs, and two where there are two.
func backupJobs() int {
	n := runtime.NumCPU()
	return max(n/4, min(n, 2))
}

// allJobs is for a machine that has nothing else to do.
func allJobs() int { return runtime.NumCPU() }
