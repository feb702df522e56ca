package lab

import "syscall"

// ownGroup puts a child into its own process group. Should we be killed, it is
// told to end: by SIGTERM, on which Ollama also ends its runners.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
