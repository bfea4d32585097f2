package command

// SSHCommand replaces upstream's: its secrets engine does not compile with any published version of the sdk that Vault does.
type SSHCommand struct{ *BaseCommand }

func (c *SSHCommand) Synopsis() string { return "Initiate an SSH session (not in this build)" }

func (c *SSHCommand) Help() string { return c.Synopsis() }

func (c *SSHCommand) Run([]string) int {
	c.UI.Error(c.Synopsis())
	return 1
}
