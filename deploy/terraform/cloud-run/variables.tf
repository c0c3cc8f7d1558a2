variable "project" {
  description = "The ID of the project that the service runs in."
  type        = string
}

variable "region" {
  description = "Where the service runs."
  type        = string
}

variable "name" {
  description = "Of the service, and of the service account that is made for it."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.name))
    error_message = "A name has 6 to 30 lower-case letters, digits and `-`, because a service account is named so, too."
  }
}

variable "app_image" {
  description = "Your app's image."
  type        = string
}

variable "app_port" {
  description = "Where your app listens: the only port that can be reached from outside the instance."
  type        = number
  default     = 8080
}

variable "app_environment" {
  description = "More variables for your app. The routes' base URLs are there without."
  type        = map(string)
  default     = {}
}

variable "image" {
  description = "The sidecar's image."
  type        = string
}

variable "config" {
  description = "The sidecar's configuration, YAML: file(\"config.yaml\"). Give each route a `listen` such as localhost:8801."
  type        = string

  validation {
    condition     = can(yamldecode(var.config).routes[0].name)
    error_message = "It needs YAML with `routes`, and a name for each."
  }
  validation {
    condition     = !strcontains(var.config, "$${")
    error_message = "Variables ($${…}) work in a file only; write the values out. No secret may stand here: Terraform's state keeps it."
  }
}

variable "services" {
  description = "By route: the Cloud Run service that it calls, where the upstream's host (NAME-NUMBER.REGION.run.app) does not tell, or where the service is in another project."
  type = map(object({
    service  = string
    location = string
    project  = optional(string)
  }))
  default = {}
}

variable "cpu_always" {
  description = "CPU between requests, too: tokens are renewed by a timer. Without it, on use and by each probe."
  type        = bool
  default     = true
}

variable "startup_seconds" {
  description = "The longest start: the configuration's `startup_wait`, and some for the process. 240 at most."
  type        = number
  default     = 70
}
