package main

// exitRules is the one table of errors, exit codes and hints. docs/exit-codes.md is generated from it
// (go test ./cmd/pgtrove -run ExitCodes -update).
func exitRules() []exitRule {
	return []exitRule{
		{name: "interrupted", is: errInterrupted, code: codeOther, meaning: "a signal ended the command; nothing half-done is visible"},
		{name: "usage", as: isA[usageError], code: codeUsage, meaning: "the command line, the environment or the configuration file is wrong"},
		{name: "incomplete", is: errIncomplete, code: codeIncomplete, meaning: "the command did its work, but something is missing from it"},
		{name: "refused", is: errRefused, code: codeRefused, meaning: "a check of the command said no"},
		{name: "absent file", is: errAbsentFile, code: codeAbsent, meaning: "the archive does not hold the WAL file"},
		{name: "any other", code: codeOther, meaning: "not classified"},
	}
}
